"""What the services share, in layers: edge over channel over protocol, with the client beside them."""

__version__ = "0.1.0"
