"""How people reach the switch: AMP commands, their server side and their client, and tcpvsadm."""
