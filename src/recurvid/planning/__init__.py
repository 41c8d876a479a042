"""Planning: how many sections, in which order, each made from what."""

from recurvid.planning.clock import Duration, duration
from recurvid.planning.orders import MAX_SECTIONS, ORDERS, Order, Wish, implied_order, plan

__all__ = [
    "MAX_SECTIONS",
    "ORDERS",
    "Duration",
    "Order",
    "Wish",
    "duration",
    "implied_order",
    "plan",
]
