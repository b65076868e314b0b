"""Stores: structures checked once and read through memory maps, for sets of any size."""

from pathtune.data.store.layout import is_begun, is_store
from pathtune.data.store.manifest import damaged_shards, read_manifest
from pathtune.data.store.preparing import Prepared, prepare
from pathtune.data.store.source import Selected, Store

__all__ = ["Prepared", "Selected", "Store", "damaged_shards", "is_begun", "is_store", "prepare", "read_manifest"]
