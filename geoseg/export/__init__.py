"""Writers of finished layers and rasters (floor 3)."""
