//! The effective configuration: flags over environment over file.
