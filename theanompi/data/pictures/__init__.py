"""Pictures: decoded, cropped and augmented."""
