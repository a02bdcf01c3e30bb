"""The sides of pictures that the models take."""


def check_image_size(image_size: int) -> None:
    if image_size < 16 or image_size & (image_size - 1):
        raise ValueError(f"image_size must be a power of two from 16, got {image_size}")
