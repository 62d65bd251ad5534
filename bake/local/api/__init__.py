"""AWS's APIs on this computer: moto's server, extended."""
