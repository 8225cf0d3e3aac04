"""The flags, the recipes with their sources, and the way from settings to what the engine takes."""
