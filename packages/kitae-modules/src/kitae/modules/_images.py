"""The layout of an image, inferred from its shape."""

from collections.abc import Sequence

# Height and width below this leave nothing for the last of NatureCNN's convolutions.
MIN_IMAGE_SIDE = 36

# An agent takes a preprocess_fn; channel_first is for who makes the network.
_SAY = (
    "make the network with channel_first=True for [channels, height, width], False "
    "for [height, width, channels]"
)


def is_channel_first(
    shape: Sequence[int],
    channel_first: bool | None = None,
    min_side: int = MIN_IMAGE_SIDE,
) -> bool:
    """Finds the layout of an image, and refuses one that the encoder cannot take.

    Args:
        shape: Shape of one image, three sizes.
        channel_first: The layout where it is known, None to find it: then the sides
            are the two sizes of at least 36, whatever `min_side`.
        min_side: Pixels of the smallest side that the encoder takes.

    Returns:
        True for [channels, height, width], False for [height, width, channels].

    Raises:
        ValueError: If the shape is not an image's, has a side below `min_side`, or fits
            both layouts, or neither, while `channel_first` is None.

    Examples:
        >>> is_channel_first((4, 84, 84)), is_channel_first((84, 84, 3))
        (True, False)
    """
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(f"An image must have three axes, got the shape {shape}")
    layouts = {True: min(shape[1:]), False: min(shape[:2])}
    smallest = MIN_IMAGE_SIDE
    if channel_first is not None:
        layouts, smallest = {channel_first: layouts[channel_first]}, min_side
    fitting = [layout for layout, side in layouts.items() if side >= smallest]
    if len(fitting) == 2:
        raise ValueError(
            f"The layout of an image of shape {shape} is ambiguous: give it another "
            f"shape, or flatten it, in preprocess_fn; or {_SAY}"
        )
    if fitting:
        return fitting[0]
    small = f"An image of shape {shape} has a side below {smallest} pixels"
    if smallest > min_side:
        raise ValueError(
            f"{small}, and its layout cannot be inferred: resize it to sides of "
            f"at least {smallest} pixels, or flatten it, in preprocess_fn; or {_SAY}"
        )
    raise ValueError(
        f"{small} with channel_first={channel_first}, too small for the encoder: "
        "resize it, or flatten it in preprocess_fn to use dense layers"
    )
