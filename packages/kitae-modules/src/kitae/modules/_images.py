"""The layout of an image, told from its shape."""

from collections.abc import Sequence

# Height and width below this leave nothing for the last of NatureCNN's convolutions.
MIN_IMAGE_SIDE = 36


def is_channel_first(shape: Sequence[int], channel_first: bool | None = None) -> bool:
    """Tells the layout of an image, and refuses one that `NatureCNN` cannot take.

    Args:
        shape: Shape of one image, three sizes.
        channel_first: The layout where it is known, None to find it.

    Returns:
        True for [channels, height, width], False for [height, width, channels].

    Raises:
        ValueError: If the shape is no image's, has a side below 36 pixels, or fits
            both layouts while `channel_first` is None.

    Examples:
        >>> is_channel_first((4, 84, 84)), is_channel_first((84, 84, 3))
        (True, False)
    """
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(f"An image must have three axes, got the shape {shape}")
    layouts = {True: min(shape[1:]), False: min(shape[:2])}
    if channel_first is not None:
        layouts = {channel_first: layouts[channel_first]}
    fitting = [layout for layout, side in layouts.items() if side >= MIN_IMAGE_SIDE]
    if not fitting:
        raise ValueError(
            f"An image of shape {shape} with channel_first={channel_first} has a side "
            f"below {MIN_IMAGE_SIDE} pixels, too small for NatureCNN: resize it, or "
            "flatten it in preprocess_fn to use dense layers"
        )
    if len(fitting) == 2:
        raise ValueError(
            f"The layout of an image of shape {shape} is ambiguous: say channel_first="
            "True for [channels, height, width], False for [height, width, channels]"
        )
    return fitting[0]
