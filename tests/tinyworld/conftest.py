from embedded import weights

__all__ = ["weights"]
