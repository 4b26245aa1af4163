//! Any bytes as messages of a kernel: decoded, and taken by a cell at work. Lines are frames; an
//! empty line ends a message. What is well formed is signed, so that the fuzzer gets behind the
//! signature.
#![no_main]

use bytes::Bytes;
use jupyterflow::executor::cell::{Book, Execution};
use jupyterflow::executor::wire::Codec;
use libfuzzer_sys::fuzz_target;
use zeromq::ZmqMessage;

#[global_allocator]
static COUNTING: jupyterflow_fuzz::Counting = jupyterflow_fuzz::Counting;

fuzz_target!(|data: &[u8]| {
    jupyterflow_fuzz::bounded(data, || {
        let codec = Codec::default();
        let mut book = Book::new(2, 1 << 16);
        let mut execution = Execution::new("r".into(), 1);
        for message in data.split(|byte| *byte == 0) {
            let mut frames: Vec<Bytes> =
                message.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
            if frames.len() >= 4 {
                let signature = codec.signature(frames[..4].iter().map(AsRef::as_ref));
                frames.insert(0, Bytes::from(signature));
                frames.insert(0, Bytes::from_static(b"<IDS|MSG>"));
            }
            let Ok(message) = ZmqMessage::try_from(frames) else { continue };
            let Ok(message) = codec.decode(&message) else { continue };
            execution.take_reply(&message);
            execution.take_broadcast(message, &mut book);
        }
        for outputs in &book.outputs {
            let _ = (outputs.to_raw(), outputs.error());
        }
        let _ = book.widgets.metadata();
    });
});
