"""Certificates that a certificate authority issues over ACME (RFC 8555): obtained, renewed and kept."""
