"""Pure: the built-in schedulers. twisted/plugins makes plugins of them, like those of other packages."""
