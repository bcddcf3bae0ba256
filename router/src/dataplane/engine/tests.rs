mod frames;
mod hostile;
mod links;
mod net;
mod recorded;
