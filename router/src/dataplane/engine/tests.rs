mod frames;
mod hostile;
mod links;
mod net;
mod offload;
mod recorded;
mod shuttle;
mod workers;
