//! Defects that the simulator must find.
