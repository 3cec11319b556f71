from embedded import embedded, weights

__all__ = ["embedded", "weights"]
