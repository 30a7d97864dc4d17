//! The methods that serve a folder.

use std::{sync::Arc, time::Duration};

use palyra_quic::{
    Bytes, Context, Items, MethodError, MethodLimits, Peers, ResponseSink, Router, WireError, minicbor,
};
use smol::future;

use super::{
    From, GET, OFFER, Offer, PUT, STAT,
    content::Content,
    copy::{FileReader, FileWriter, max_piece},
    error::FileError,
    folder::{Begun, Folder},
    name::FileName,
    name_lock::Writer,
    transfers::{PeerLimits, PeerWatch, TooSlow, Transfers},
};

/// How long a method may say nothing: it may be hashing a large file on a slow disk, or wait for its turn.
/// For what it waits for the peer, there is [`ServedFolder::peer_limits`].
const LONGEST_SILENCE: Duration = Duration::from_secs(10 * 60);

/// How many files are hashed at a time because a peer asks about them.
const MAX_HASHING: u32 = 2;

/// A folder, and what peers may do with it. All with a certificate may read.
#[derive(Clone)]
pub(crate) struct ServedFolder {
    pub(crate) folder: Folder,
    pub(crate) writers: Peers,
    /// How many bytes an item may have, and an answer.
    pub(crate) max_piece: usize,
    pub(crate) peer_limits: PeerLimits,
}

impl ServedFolder {
    /// Pieces are as long as fits into frames of this length.
    pub(crate) fn new(folder: Folder, writers: Peers, max_frame_bytes: u32) -> Self {
        let max_piece = max_piece(max_frame_bytes);
        Self { folder, writers, max_piece, peer_limits: PeerLimits::default() }
    }

    /// Adds the methods of the folder.
    pub(crate) fn methods(&self, router: Router) -> Router {
        let limits = || MethodLimits::new().handler_timeout(LONGEST_SILENCE);
        let router = self.transfers(self.questions(router));
        router
            .limits(OFFER.name(), limits().concurrency(MAX_HASHING))
            .limits(PUT.name(), limits())
            .limits(STAT.name(), limits().concurrency(MAX_HASHING))
            .limits(GET.name(), limits())
            .allow(OFFER.name(), self.writers.clone())
            .allow(PUT.name(), self.writers.clone())
            .allow(STAT.name(), Peers::identified())
            .allow(GET.name(), Peers::identified())
    }

    fn questions(&self, router: Router) -> Router {
        let (of_writers, of_readers) = (self.clone(), self.folder.clone());
        router
            .serve(OFFER, move |context, content: Content| {
                let served = of_writers.clone();
                async move { offer(&served, &content, &Writer::of(&context)).await }
            })
            .serve(STAT, move |_, name: FileName| {
                let folder = of_readers.clone();
                async move { Ok(folder.stat(name).await?.1) }
            })
    }

    fn transfers(&self, router: Router) -> Router {
        let (of_writers, of_readers) = ((self.clone(), Transfers::new()), (self.clone(), Transfers::new()));
        router
            .serve_items_raw(PUT.name(), move |context: Context, params: Bytes, items: Items| {
                let (served, uploads) = of_writers.clone();
                async move {
                    let from = decode(&params)?;
                    let _slot = uploads.begin(&context).await;
                    store(&served, &Writer::of(&context), &from, items).await
                }
            })
            .serve_bidi_raw(
                GET.name(),
                move |context: Context, params: Bytes, _: Items, answers: ResponseSink| {
                    let (served, downloads) = of_readers.clone();
                    async move {
                        let from = decode(&params)?;
                        let _slot = downloads.begin(&context).await;
                        send(&served, from, answers).await
                    }
                },
            )
    }
}

async fn offer(served: &ServedFolder, content: &Content, writer: &Writer) -> Result<Offer, MethodError> {
    let ServedFolder { folder, max_piece, .. } = served;
    let (offset, complete) = folder.find(content, writer).await?;
    Ok(Offer { offset, complete, max_piece: u32::try_from(*max_piece).unwrap_or(u32::MAX) })
}

async fn store(
    ServedFolder { folder, max_piece, peer_limits, .. }: &ServedFolder,
    writer: &Writer,
    from: &From,
    mut items: Items,
) -> Result<Bytes, MethodError> {
    let stored =
        || minicbor::to_vec(()).map(Bytes::from).map_err(|error| MethodError::internal(error.to_string()));
    let partial = match folder.begin(&from.content, Some(writer), |_| {}).await? {
        Begun::Complete => return stored(),
        Begun::Partial(partial) => partial,
    };
    if partial.written() != from.offset {
        return Err(FileError::AnotherOffset { expected: partial.written() }.into());
    }
    let taken_over = partial.name_lock().taken_over();
    let taken_over = async {
        taken_over.await;
        Err(FileError::TakenOver.into())
    };
    let mut writer = FileWriter::new(folder, partial);
    let watch = PeerWatch::new(*peer_limits);
    let received = async {
        while let Some(piece) = watch.wait(items.next_raw()).await? {
            if piece.len() > *max_piece {
                return Err(FileError::LongPiece { longest: *max_piece }.into());
            }
            watch.moved(piece.len());
            writer = writer.push(piece).await?;
        }
        Ok::<_, MethodError>(writer)
    };
    let received = future::or(received, future::or(taken_over, too_slow(&watch, *peer_limits)));
    received.await?.finish().await?;
    stored()
}

async fn send(
    ServedFolder { folder, max_piece, peer_limits, .. }: &ServedFolder,
    From { content, offset }: From,
    mut answers: ResponseSink,
) -> Result<(), MethodError> {
    let (file, found) = folder.stat(content.name.clone()).await?;
    if found != content {
        return Err(FileError::Changed.into());
    }
    if offset > content.size {
        return Err(FileError::BeyondEnd { size: content.size }.into());
    }
    let mut reader = FileReader::new(folder.disk(), Arc::new(file), offset, content.size, *max_piece);
    let watch = PeerWatch::new(*peer_limits);
    let sent = async {
        while let Some(piece) = reader.next().await? {
            let len = piece.len();
            watch.wait(answers.send_raw(piece)).await?;
            watch.moved(len);
        }
        Ok(())
    };
    future::or(sent, too_slow(&watch, *peer_limits)).await
}

/// Resolves when the peer is too slow.
async fn too_slow<T>(watch: &PeerWatch, limits: PeerLimits) -> Result<T, MethodError> {
    let detail = match watch.too_slow().await {
        TooSlow::Silent => format!("nothing has moved for {:?}", limits.silence),
        TooSlow::BelowMinRate => {
            format!("less than {} bytes a second have moved for {:?}", limits.min_rate, limits.max_lag)
        }
    };
    Err(MethodError::new(WireError::DeadlineExceeded).detail(detail))
}

fn decode(params: &[u8]) -> Result<From, MethodError> {
    minicbor::decode(params).map_err(|error| MethodError::invalid_request(format!("params: {error}")))
}
