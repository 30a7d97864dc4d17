pub(crate) mod loan;
