"""One builder a child kind: from a ModelDeployment to manifests as plain dicts. Pure; production and the local
runtime share it.
"""

from paceline.policy.resources.children import OPTIONAL_KINDS, Children, children
from paceline.policy.resources.common import Images, Manifest
from paceline.policy.resources.config import engine_config, engine_profile, noted_profile, revision, router_config
from paceline.policy.resources.engine import EngineChildren
from paceline.policy.resources.pools import FLEXIBLE, HardwarePool, hardware_pools
from paceline.policy.resources.router import RouterChildren

__all__ = [
    "FLEXIBLE",
    "OPTIONAL_KINDS",
    "Children",
    "EngineChildren",
    "HardwarePool",
    "Images",
    "Manifest",
    "RouterChildren",
    "children",
    "engine_config",
    "engine_profile",
    "hardware_pools",
    "noted_profile",
    "revision",
    "router_config",
]
