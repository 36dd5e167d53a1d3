"""A trained policy that acts without Kitae."""
