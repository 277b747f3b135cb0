//! Per-reactor pools of aligned buffers.
