"""Where images come from: folders, archives, arrays, or nowhere."""
