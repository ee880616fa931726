//! Locks between the processes of one host, kept in a folder: no server needed.
