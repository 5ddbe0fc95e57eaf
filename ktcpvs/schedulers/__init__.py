"""Pure: who serves. One scheduler a file; each is a plugin, found through twisted/plugins like anybody else's."""
