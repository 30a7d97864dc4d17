//! Which peers get in, and what they may take: slots for connections and handshakes, caps and rates for each
//! peer, and a budget of memory for the frames of all.

mod accounts;
mod allowance;
mod budget;
mod count;
mod handshakes;
mod slots;
mod unread_pieces;

pub(crate) use self::{
    accounts::{Accounts, MAX_ABSENT_BYTES, Payer},
    allowance::{Allowance, TooMany},
    budget::{Charge, OpenStream},
    handshakes::{ConnectionSlot, HandshakeSlot},
    slots::{Admission, Full},
};
