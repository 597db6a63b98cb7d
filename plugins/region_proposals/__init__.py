"""RegionProposals: the best boxes of the RPN, as torchvision's ``filter_proposals`` selects them."""

from frcnn.plugins.region_proposals.function import function
from frcnn.plugins.region_proposals.spec import SPEC

__all__ = ["SPEC", "function"]
