//! Tests on forged logs. Those on real servers are in `crates/engine/tests/wal_*.rs`.

mod epochs;
mod forge;
mod names;
mod reading;
mod taking_in;
