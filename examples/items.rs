//! A file in pieces, and a conversation: requests that continue with items. `cargo run --example items`.

use std::time::Duration;

use futures_lite::{StreamExt, stream};
use palyra_quic::{
    BidiMethod, ErrorKind, Items, ItemsMethod, MethodError, ResponseSink, Result, Router, WireError,
    connected_pair, minicbor::bytes::ByteVec,
};

/// Takes a file of a known length in pieces, and answers with their number.
const PUT: ItemsMethod<u64, ByteVec, u64> = ItemsMethod::new("demo.put");
/// Answers each line.
const TALK: BidiMethod<(), String, String> = BidiMethod::new("demo.talk");

const PIECE: usize = 16 * 1024;
/// What a small node has room for.
const ROOM: u64 = 1024 * 1024;

fn router() -> Router {
    Router::new()
        .serve_items(PUT, |_, length: u64, mut pieces: Items<ByteVec>| async move {
            let (mut received, mut count) = (0_u64, 0);
            while let Some(piece) = pieces.next().await? {
                received += u64::try_from(piece.len()).unwrap_or(u64::MAX);
                count += 1;
                if received > ROOM {
                    // The caller need not send the rest to get this.
                    return Err(MethodError::resource_exhausted("the disk is full"));
                }
            }
            if received == length { Ok(count) } else { Err(MethodError::invalid_request("another length")) }
        })
        .serve_bidi(TALK, |_, (), mut lines: Items<String>, mut answers: ResponseSink<String>| async move {
            while let Some(line) = lines.next().await? {
                answers.send(&line.to_uppercase()).await?;
            }
            Ok(())
        })
}

fn main() -> Result<()> {
    smol::block_on(async {
        let pair = connected_pair(router()).await?;
        let connection = &pair.connection;

        // All of a stream, within a time limit for the whole.
        let pieces = stream::repeat(ByteVec::from(vec![7; PIECE])).take(8);
        println!("{} pieces arrived", connection.send_all(PUT, &131_072, pieces).await?);

        // One by one, until the peer has had enough.
        let call = connection.request(PUT, &(100 * ROOM))?.timeout(Duration::from_secs(30));
        let mut upload = call.send_items::<ByteVec>().await?;
        let refusal = loop {
            if let Err(error) = upload.send(&vec![7; PIECE].into()).await {
                break error;
            }
        };
        assert_eq!(refusal.kind(), &ErrorKind::Remote(WireError::ResourceExhausted));
        println!("refused after {:?} pieces: {refusal}", refusal.items_taken());

        // Both directions, in turn.
        let (mut lines, mut answers) = connection.bidi(TALK, &()).await?;
        for line in ["hello", "goodbye"] {
            lines.send(&line.to_owned()).await?;
            println!("{line}: {:?}", answers.next().await?);
        }
        lines.finish().await?;
        assert_eq!(answers.next().await?, None);
        Ok(())
    })
}
