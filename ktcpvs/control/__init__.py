"""The control connection: AMP commands, their server and client sides, listeners, and tcpvsadm."""
