"""The nouns that every layer shares. Nothing here reads a file, a clock or a device."""
