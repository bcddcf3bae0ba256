//! End-to-end measurements of overlays on one machine.
//!
//! Two hosts (network namespaces) joined by a veth underlay, a container behind each, one system
//! at a time in between. Systems are measured in alternation and compared by the ratio of their
//! medians, since the two hosts, the load and whatever else the machine does share its cores.
//!
//! [`systems`] sets the stage, [`traffic`] makes the load, [`meter`] reads what it cost,
//! [`measure`] takes one round of a system, [`rounds`] alternates them, [`report`] turns samples into tables and [`plot`] into
//! a picture, and [`interrupt`] ends it all early. The program `lab` puts them together.
//!
//! [`servers`] is about name servers, for the program `names-lab`; [`engines`] puts data planes back
//! to back for the benches in `benches/`.

pub mod engines;
pub mod interrupt;
pub mod measure;
pub mod meter;
pub mod plot;
pub mod program;
pub mod report;
pub mod rounds;
pub mod servers;
pub mod systems;
pub mod traffic;
