# WARNING: The configuration declares no secret
