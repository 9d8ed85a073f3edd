//! One blob sent. A smaller one goes whole, which every registry takes. A large one, and one that did not get
//! through whole, goes in pieces: what breaks then is one piece, where the registry says how far it has come.
//!
//! ```text
//! mounted? ─no─▶ POST ─▶ PUT, whole ──────────────done─▶
//!                 ▲        │ broken, or too large
//!                 │        ▼
//!                 │      PATCH, PATCH, … ─▶ PUT, empty ─▶
//!                 │        │ broken ─▶ GET: how far? ─▶ from there
//!                 └────────┴ it knows nothing of it any more, or takes no pieces: whole
//! ```

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;

use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use url::Url;

use super::call::{Ask, Payload, Trouble, passes};
use super::{Descriptor, Registry};
use crate::ImageError;

/// No piece is made smaller than this.
const LEAST: u64 = 1 << 20;

/// An upload that goes on there.
pub(super) struct Begun {
    place: Url,
    /// The smallest piece that the registry takes.
    least: u64,
}

/// Whether another repository had it.
pub(super) enum Mount {
    Done,
    /// It had not, and an upload has begun instead.
    Begun(Begun),
    No,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Pieces,
}

/// What came of one way to send a blob.
enum Outcome {
    Sent,
    /// It may get through when it is begun again.
    Lost(String),
    /// It is too much at once.
    TooLarge,
    /// The registry takes no pieces.
    NoPieces,
}

impl Registry {
    /// Has the registry take a blob from another of its repositories. What it does not say yes to, it is sent.
    pub(super) fn mount(&mut self, blob: &Descriptor, from: Option<&str>) -> Result<Mount, ImageError> {
        let Some(from) = from else { return Ok(Mount::No) };
        let url = self.url(&format!("blobs/uploads/?mount={}&from={from}", blob.digest));
        match self.call(&Ask::new("POST", url)) {
            Ok(answer) if answer.status() == StatusCode::CREATED => Ok(Mount::Done),
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => Ok(Mount::Begun(self.begun(&answer)?)),
            Ok(_) | Err(ImageError::Denied { .. }) => Ok(Mount::No),
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self) -> Result<Begun, ImageError> {
        let answer = self.call(&Ask::new("POST", self.url("blobs/uploads/")))?;
        if answer.status() == StatusCode::ACCEPTED {
            self.begun(&answer)
        } else {
            Err(self.complaint(answer, "sending a layer of"))
        }
    }

    fn begun(&self, answer: &Response<Body>) -> Result<Begun, ImageError> {
        let place = self.place(answer.headers());
        let least = answer.headers().get("OCI-Chunk-Min-Length").and_then(|value| value.to_str().ok()?.parse().ok());
        let nowhere = || self.failed("it does not say where a layer is to be sent");
        Ok(Begun { place: place.ok_or_else(nowhere)?, least: least.unwrap_or(0) })
    }

    /// Where the next call goes.
    fn place(&self, headers: &HeaderMap) -> Option<Url> {
        let place = headers.get(header::LOCATION)?.to_str().ok()?;
        Url::parse(&self.address).and_then(|base| base.join(place)).ok()
    }

    /// Sends a blob, at first by an upload that has begun already, if there is one.
    pub(super) fn upload(
        &mut self,
        blob: &Descriptor,
        path: &Path,
        mut begun: Option<Begun>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ImageError> {
        let file = File::open(path).map_err(ImageError::io("reading", path))?;
        let mut way = if blob.size > self.manners.whole { Way::Pieces } else { Way::Whole };
        let mut takes_pieces = true;
        for tried in 0..self.manners.tries {
            let to = match begun.take() {
                Some(begun) => begun,
                None => self.begin()?,
            };
            let outcome = match way {
                Way::Whole => self.whole(&to, blob, &file, progress)?,
                Way::Pieces => self.in_pieces(to, blob, &file, progress)?,
            };
            let why = match outcome {
                Outcome::Sent => return Ok(()),
                Outcome::NoPieces => {
                    takes_pieces = false;
                    way = Way::Whole;
                    continue;
                }
                Outcome::TooLarge if way == Way::Whole && takes_pieces => {
                    way = Way::Pieces;
                    continue;
                }
                Outcome::TooLarge => return Err(self.not_sent("it takes nothing of that size")),
                Outcome::Lost(why) => why,
            };
            if tried + 1 == self.manners.tries {
                return Err(self.not_sent(&why));
            }
            if takes_pieces {
                way = Way::Pieces;
            }
            self.wait(tried, None);
        }
        Err(self.not_sent("it takes it in no way"))
    }

    fn not_sent(&self, why: &str) -> ImageError {
        self.failed(format!("sending a layer of {} failed: {why}", self.reference))
    }

    /// The call that ends an upload.
    fn ending<'a>(place: &Url, blob: &Descriptor) -> Ask<'a> {
        let mut place = place.clone();
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        Ask::new("PUT", place.into()).with(header::CONTENT_TYPE, "application/octet-stream")
    }

    fn whole(
        &mut self,
        begun: &Begun,
        blob: &Descriptor,
        file: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Outcome, ImageError> {
        let part = Payload::Part(file, 0, blob.size, RefCell::new(progress));
        match self.once(&Self::ending(&begun.place, blob).sending(part)) {
            Err(Trouble::Final(error)) => Err(error),
            Err(Trouble::Broken(why)) => Ok(Outcome::Lost(why)),
            Ok(answer) if answer.status().is_success() => Ok(Outcome::Sent),
            Ok(answer) if answer.status() == StatusCode::PAYLOAD_TOO_LARGE => Ok(Outcome::TooLarge),
            Ok(answer) if passes(answer.status()) => {
                Ok(Outcome::Lost(self.complaint(answer, "sending a layer of").to_string()))
            }
            Ok(answer) => Err(self.complaint(answer, "sending a layer of")),
        }
    }

    fn in_pieces(
        &mut self,
        Begun { mut place, least }: Begun,
        blob: &Descriptor,
        file: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Outcome, ImageError> {
        let (mut at, mut piece, mut missed) = (0, self.manners.piece.max(least), 0);
        while at < blob.size {
            let end = (at + piece).min(blob.size);
            let part = Payload::Part(file, at, end, RefCell::new(&mut *progress));
            let ask = Ask::new("PATCH", place.clone().into())
                .with(header::CONTENT_TYPE, "application/octet-stream")
                .with(header::CONTENT_RANGE, format!("{at}-{}", end - 1))
                .sending(part);
            let why = match self.once(&ask) {
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Broken(why)) => why,
                Ok(answer) if answer.status().is_success() => {
                    at = reached(answer.headers()).filter(|to| (at..=end).contains(to)).unwrap_or(end);
                    place = self.place(answer.headers()).unwrap_or(place);
                    missed = 0;
                    continue;
                }
                Ok(answer) if answer.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                    if piece <= LEAST.max(least) {
                        return Ok(Outcome::TooLarge);
                    }
                    piece = (piece / 4).max(LEAST).max(least);
                    continue;
                }
                Ok(answer) if passes(answer.status()) => self.complaint(answer, "sending a layer of").to_string(),
                Ok(answer) if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    return Err(self.complaint(answer, "sending a layer of"));
                }
                Ok(_) if at == 0 => return Ok(Outcome::NoPieces),
                Ok(answer) => return Ok(Outcome::Lost(self.complaint(answer, "sending a layer of").to_string())),
            };
            missed += 1;
            if missed >= self.manners.tries {
                return Ok(Outcome::Lost(why));
            }
            self.wait(missed - 1, None);
            // Where the registry knows nothing of it any more, it is begun again.
            let asked = self.call(&Ask::new("GET", place.clone().into()))?;
            if !asked.status().is_success() {
                return Ok(Outcome::Lost(why));
            }
            at = reached(asked.headers()).filter(|to| *to <= blob.size).unwrap_or(0);
            place = self.place(asked.headers()).unwrap_or(place);
        }
        let answer = self.call(&Self::ending(&place, blob))?;
        match answer.status() {
            status if status.is_success() => Ok(Outcome::Sent),
            // It was asked patiently already.
            status if passes(status) => Err(self.complaint(answer, "sending a layer of")),
            // What it has put together is not what it is to be.
            _ => Ok(Outcome::Lost(self.complaint(answer, "sending a layer of").to_string())),
        }
    }
}

/// How far an upload is: `0-1023` are 1024 bytes. `0-0` is what registries say of none.
fn reached(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").split_once('-')?.1.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_upload_is() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            reached(&headers)
        };
        assert_eq!((of("0-1023"), of("bytes=0-9"), of("0-0"), of("x")), (Some(1024), Some(10), Some(0), None));
        assert_eq!(reached(&HeaderMap::new()), None);
    }
}
