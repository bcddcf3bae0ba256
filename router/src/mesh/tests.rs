//! Control engines against each other and against scripted neighbours, without IO.

mod gossip;
mod joining;
mod kit;
mod refusals;
mod replay;
