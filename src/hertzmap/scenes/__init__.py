"""A place becomes a Scene, a Scene becomes a SceneRaster; knows nothing about radio."""
