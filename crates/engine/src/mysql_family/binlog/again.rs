//! What comes a second time: a server that begins anew asks production again for what it had not applied.
//!
//! Where a server may give a number twice, the number does not tell whether it is the same transaction. The bytes do: what
//! comes again comes out of the same file of production. After a failover it comes out of another server's, which says the
//! same in other bytes; then the number has to do.

use serde::{Deserialize, Serialize};

use super::event::{Event, Reader, u32_at};

/// What tells transactions of one number apart; zeroes are not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// Of its bytes.
    sum: u32,
    /// The server whose file it came out of.
    sender: u32,
}

impl Print {
    /// Whether it is not known.
    pub fn is_none(&self) -> bool {
        self.sum == 0
    }

    /// Whether the other may be the same transaction.
    pub fn is_again(self, other: Self) -> bool {
        let senders = [self.sender, other.sender];
        self.sum == other.sum
            || self.is_none()
            || other.is_none()
            || self.sender != other.sender && !senders.contains(&0)
    }
}

/// Follows a log from event to event.
#[derive(Debug, Clone, Default)]
pub struct Printing {
    own: u32,
    /// Of the transaction that is open.
    pub print: Print,
}

impl Printing {
    /// Takes a description in: `first` in a file is that of whoever wrote it, and the sender's own follows.
    pub fn described(&mut self, event: &Event, first: bool) {
        let server = u32_at(&event.bytes, 5);
        if first {
            self.own = server;
        } else if server != self.own {
            self.print.sender = server;
        }
    }

    /// Takes an event of the open transaction in.
    pub fn event(&mut self, event: &Event, reader: &Reader) {
        let kind = [event.kind()];
        for part in [&kind[..], &event.when().to_le_bytes(), reader.content(event)] {
            self.print.sum = crc32c::crc32c_append(self.print.sum, part);
        }
    }

    /// A transaction begins with the next event.
    pub fn begin(&mut self) {
        self.print.sum = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_the_same_and_others_only_when_somebody_else_sends_them() {
        let print = |sum: u32, sender: u32| Print { sum, sender };
        for (one, other, again) in [
            (print(1, 7), print(1, 7), true),
            (print(1, 7), print(2, 7), false),
            (print(1, 7), print(2, 8), true),
            (print(1, 0), print(2, 8), false),
            (print(1, 7), print(0, 0), true),
        ] {
            assert_eq!((one.is_again(other), other.is_again(one)), (again, again), "{one:?} {other:?}");
        }
    }
}
