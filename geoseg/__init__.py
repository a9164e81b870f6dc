"""geoseg: a GeoTIFF of any size in, georeferenced polygon layers out."""
