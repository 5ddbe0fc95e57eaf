"""Several switches with one table, which etcd keeps. Nothing of this is on the path of a request."""
