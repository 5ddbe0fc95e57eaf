"""HTTP connections: the client side, the exchange of one request, the server side and its pool."""
