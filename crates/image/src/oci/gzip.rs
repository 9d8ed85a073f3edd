//! gzip whose output depends on nothing but the input. The fast level of zlib looks at as much as it was given at once, so
//! bytes that come from a socket in other portions would give another digest: it is given portions of one size.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// What is given at once.
const PORTION: usize = 1 << 17;

/// Packs what is written.
pub(super) struct Packer<W: Write> {
    packed: GzEncoder<W>,
    portion: Vec<u8>,
}

impl<W: Write> Packer<W> {
    /// Packs to `out`.
    pub fn new(out: W) -> Self {
        Self { packed: GzEncoder::new(out, Compression::fast()), portion: Vec::with_capacity(PORTION) }
    }

    /// Ends it, and hands back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.packed.write_all(&self.portion)?;
        self.packed.finish()
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PORTION - self.portion.len());
        self.portion.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.portion.len() == PORTION {
            self.packed.write_all(&self.portion)?;
            self.portion.clear();
        }
        Ok(taken)
    }

    /// Nothing is flushed in the middle: that would be in the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portions_that_it_comes_in_are_not_in_the_output() {
        let noisy = |i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x1f;
        let bytes: Vec<u8> = (0..1_000_000).map(noisy).collect();
        let packed = |size: usize| {
            let mut packer = Packer::new(Vec::new());
            bytes.chunks(size).for_each(|part| packer.write_all(part).unwrap());
            packer.finish().unwrap()
        };
        let whole = packed(bytes.len());
        for size in [7, 1000, 8192, 100_003, PORTION] {
            assert!(packed(size) == whole, "{size}");
        }
        let mut back = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*whole), &mut back).unwrap();
        assert!(back == bytes);
    }
}
