//! Messages on the wire: frames, signatures, headers.
//!
//! Owns the codec of the Jupyter messaging protocol 5.x over `ZeroMQ`. Contents stay raw JSON, so
//! that outputs reach the notebook as the kernel wrote them. It must not know what a message means.

#![expect(clippy::disallowed_methods, reason = "messages and cells carry the time")]

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeromq::ZmqMessage;

use crate::notebook::json::{Object, Raw, mark_non_finite, without_marks};

const DELIMITER: &[u8] = b"<IDS|MSG>";

/// A message from a kernel.
#[derive(Debug)]
pub struct Message {
    /// What kind, such as `stream`.
    pub kind: String,
    /// Id of the request that it answers; empty where there is none.
    pub parent: String,
    /// When the kernel sent it, as it wrote the time.
    pub date: Option<String>,
    /// The content.
    pub content: Object,
    /// Binary parts behind it.
    pub buffers: Vec<Bytes>,
}

#[derive(Deserialize)]
struct Header {
    msg_type: String,
    #[serde(default)]
    date: Option<String>,
}

#[derive(Deserialize, Default)]
struct Parent {
    #[serde(default)]
    msg_id: String,
}

/// What makes a message unreadable.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Frames are missing.
    #[error("a message from the kernel has too few parts")]
    Frames,
    /// The signature is another.
    #[error("a message from the kernel has a wrong signature")]
    Signature,
    /// A part is no JSON.
    #[error("a message from the kernel is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Signs and checks messages of one kernel.
#[derive(Clone)]
pub struct Codec {
    key: String,
    session: String,
}

impl Default for Codec {
    /// A codec with a key of its own.
    fn default() -> Self {
        Self {
            key: uuid::Uuid::new_v4().simple().to_string(),
            session: uuid::Uuid::new_v4().simple().to_string(),
        }
    }
}

impl Codec {
    /// The key, for the connection file.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Encodes a request. Returns its id and the frames.
    pub fn request(&self, kind: &str, content: &impl Serialize) -> (String, ZmqMessage) {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let header = serde_json::json!({
            "msg_id": id, "session": self.session, "username": "jupyterflow",
            "date": jiff::Timestamp::now().to_string(), "msg_type": kind, "version": "5.3",
        });
        let parts = [
            header.to_string(),
            "{}".to_owned(),
            "{}".to_owned(),
            Raw::new(content).text().to_owned(),
        ];
        let mut frames = vec![
            Bytes::from_static(DELIMITER),
            Bytes::from(self.signature(parts.iter().map(String::as_bytes))),
        ];
        frames.extend(parts.into_iter().map(Bytes::from));
        let message = ZmqMessage::try_from(frames).expect("a message of six frames is not empty");
        (id, message)
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(&self, message: &ZmqMessage) -> Result<Message, WireError> {
        let frames: Vec<&Bytes> = message.iter().collect();
        let start =
            frames.iter().position(|frame| frame.as_ref() == DELIMITER).ok_or(WireError::Frames)?;
        let [signature, header, parent, metadata, content, buffers @ ..] = &frames[start + 1..]
        else {
            return Err(WireError::Frames);
        };
        let parts = [*header, *parent, *metadata, *content];
        if signature.as_ref()
            != self.signature(parts.iter().map(std::convert::AsRef::as_ref)).as_bytes()
        {
            return Err(WireError::Signature);
        }
        let header: Header = serde_json::from_slice(header)?;
        let parent: Parent = serde_json::from_slice(parent).unwrap_or_default();
        // A lone surrogate travels as invalid UTF-8: it is shown, not a reason to fail.
        let text = String::from_utf8_lossy(content);
        let text = without_marks(&text);
        let content = serde_json::from_str(&text)
            .or_else(|_| serde_json::from_str(&mark_non_finite(&text)))?;
        let buffers = buffers.iter().map(|&buffer| buffer.clone()).collect();
        let Header { msg_type: kind, date } = header;
        Ok(Message { kind, parent: parent.msg_id, date, content, buffers })
    }

    /// The signature of header, parent header, metadata and content.
    pub fn signature<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_bytes())
            .expect("a key of any length is taken");
        parts.for_each(|part| mac.update(part));
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_forged_is_not() {
        let codec = Codec::default();
        let (_, message) = codec.request("execute_request", &serde_json::json!({"code": "1"}));
        let decoded = codec.decode(&message).unwrap();
        assert_eq!(decoded.kind, "execute_request");
        assert_eq!(decoded.content.view::<&str>("code"), Some("1"));
        assert!(matches!(Codec::default().decode(&message), Err(WireError::Signature)));
        assert!(matches!(codec.decode(&ZmqMessage::from("x")), Err(WireError::Frames)));
    }
}
