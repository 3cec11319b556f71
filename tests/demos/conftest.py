from embedded import embedded, weights
from study_folder import ram

__all__ = ["embedded", "ram", "weights"]
