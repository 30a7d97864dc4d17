//! Notifications: sent, and not answered.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use minicbor::Encode;

use super::{
    Connection,
    answer::{Deadline, timed_out},
    intercepted::Intercepted,
};
use crate::{
    code::Code,
    error::{Error, ErrorKind, Result},
    frame,
    link::{Link, OutstandingGuard},
    message::{Codec, Notification},
    method::{MethodKind, MethodName, NotificationMethod},
    stream::FrameWriter,
    value,
};

impl Connection {
    /// Sends a notification with parameters that minicbor encodes, on a stream of its own.
    ///
    /// The notification is a [`NotificationMethod`], which brings the type of the parameters, or a string.
    ///
    /// Resolves when QUIC has taken it. A connection whose last handle is dropped, and an
    /// [`Endpoint::shutdown`](crate::Endpoint::shutdown) within its grace, wait until it has arrived;
    /// [`close`](Self::close) and a connection that is lost do not. To know that it has arrived, or to
    /// keep several in order, use a [`notifier`](Self::notifier).
    ///
    /// # Errors
    ///
    /// [`Codec`](ErrorKind::Codec) and [`MessageTooLarge`](ErrorKind::MessageTooLarge) for what cannot be
    /// sent; [`Unsupported`](ErrorKind::Unsupported) where the peer is [known](Self::is_json_only) to be a
    /// node of the tokio implementation, which reads no notifications; or why the connection is gone.
    ///
    /// # Cancellation
    ///
    /// The notification may arrive, or not.
    pub async fn notify<P>(&self, method: impl MethodName<NotificationMethod<P>>, params: &P) -> Result<()>
    where
        P: Encode<()> + ?Sized,
    {
        let method = method.method_name();
        let params = value::encode(params).map_err(|error| self.link().name(error, method))?;
        self.notify_raw(method, params).await
    }

    /// Sends a notification with parameters of plain bytes. Empty ones are left out. See
    /// [`notify`](Self::notify).
    ///
    /// # Errors
    ///
    /// As for [`notify`](Self::notify).
    pub async fn notify_raw(&self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<()> {
        self.notify_until(method.as_ref(), params.into(), None).await
    }

    /// Sends a notification until `limit` at the latest.
    pub(crate) async fn notify_until(&self, method: &str, params: Bytes, limit: Deadline) -> Result<()> {
        let notification = notification(self.link(), method, params);
        if !self.link().call_interceptors().is_empty() {
            return Box::pin(self.notify_intercepted(&notification, limit)).await;
        }
        self.notify_now(&notification, limit).await
    }

    async fn notify_intercepted(&self, notification: &Notification, limit: Deadline) -> Result<()> {
        let intercepted = interceptors(self.link(), notification).until(limit);
        let sent = intercepted.notification(self.notify_now(notification, limit)).await;
        sent.map_err(|error| self.link().name(error, &notification.method))
    }

    /// By reference, since what a future takes by value it has twice.
    async fn notify_now(&self, notification: &Notification, limit: Deadline) -> Result<()> {
        let link = self.link();
        let _sending = OutstandingGuard::new(link);
        let send = async {
            let notifier = self.notifier().await;
            let mut notifier = notifier.map_err(|error| error.of_method(&notification.method))?;
            notifier.send_now(notification).await?;
            Ok(notifier.writer)
        };
        let sent = link.clock().timeout_at(limit, send).await;
        let timed_out = |_elapsed| Err(link.name(timed_out(link.clock()), &notification.method));
        let mut writer: FrameWriter = sent.unwrap_or_else(timed_out)?;
        writer.finish();
        link.outstanding().keep(writer);
        Ok(())
    }

    /// Opens a stream for notifications, which the peer handles in order.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) as for [`notify`](Self::notify), or why the connection is
    /// gone.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is sent before the notifier is used.
    pub async fn notifier(&self) -> Result<Notifier> {
        let link = self.link();
        check_peer_reads(link)?;
        let stream = link.open_uni().await.map_err(|error| error.at(link.remote_address()))?;
        let writer = FrameWriter::new(stream, Code::CANCELLED);
        Ok(Notifier { connection: self.clone(), writer, codec: Codec::Cbor })
    }
}

/// Empty parameters are left out.
fn notification(link: &Link, method: &str, params: Bytes) -> Notification {
    let mut notification = Notification::new(method);
    notification.params = (!params.is_empty()).then_some(params);
    notification.trace = link.call_hooks().current_trace().map(Box::new);
    notification
}

/// The interceptors around a notification, and what they see of it.
fn interceptors<'a>(link: &'a Arc<Link>, notification: &Notification) -> Intercepted<'a> {
    let Notification { method, params, .. } = notification;
    let trace = notification.trace();
    Intercepted::new(link, MethodKind::Notification, method, params.as_ref(), trace, None)
}

/// A node of the tokio implementation acknowledges as many streams of notifications as it allows, and reads
/// none of them.
fn check_peer_reads(link: &Link) -> Result<()> {
    if link.is_json_only() {
        return Err(Error::new(ErrorKind::Unsupported)
            .detail("a node of the tokio implementation reads no notifications")
            .at(link.remote_address()));
    }
    Ok(())
}

/// A stream of notifications; see [`Connection::notifier`].
///
/// Dropping it without [`finish`](Self::finish) resets the stream: what the peer has not read by then it will
/// not get.
#[must_use = "dropping it without `finish` resets the stream"]
pub struct Notifier {
    connection: Connection,
    writer: FrameWriter,
    codec: Codec,
}

impl Notifier {
    /// The codec of the notifications to come. Default: CBOR.
    pub fn codec(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// Sends a notification with parameters that minicbor encodes. Waits for room where the peer is slow.
    ///
    /// # Errors
    ///
    /// As for [`Connection::notify`], and [`StreamReset`](ErrorKind::StreamReset) where the peer will read no
    /// more: with PROTOCOL_VIOLATION where an earlier notification was not valid.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half way, nothing more can be sent on the stream.
    pub async fn send<P>(&mut self, method: impl MethodName<NotificationMethod<P>>, params: &P) -> Result<()>
    where
        P: Encode<()> + ?Sized,
    {
        let method = method.method_name();
        let params = value::encode(params).map_err(|error| self.connection.link().name(error, method))?;
        self.send_raw(method, params).await
    }

    /// Sends a notification with parameters of plain bytes. See [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub async fn send_raw(&mut self, method: impl AsRef<str>, params: impl Into<Bytes>) -> Result<()> {
        let notification = notification(self.connection.link(), method.as_ref(), params.into());
        if !self.connection.link().call_interceptors().is_empty() {
            return Box::pin(self.send_intercepted(&notification)).await;
        }
        self.send_now(&notification).await
    }

    async fn send_intercepted(&mut self, notification: &Notification) -> Result<()> {
        let link = Arc::clone(self.connection.link());
        let intercepted = interceptors(&link, notification);
        let sent = intercepted.notification(self.send_now(notification)).await;
        sent.map_err(|error| link.name(error, &notification.method))
    }

    async fn send_now(&mut self, notification: &Notification) -> Result<()> {
        let (link, method) = (self.connection.link(), &notification.method);
        check_peer_reads(link)?;
        let max = link.limits().max_frame_len();
        let frame = frame::encode(max, |out| notification.encode(self.codec, out).map_err(Error::from));
        let frame = frame.map_err(|error| link.name(error, method))?;
        let sent = self.writer.write(frame).await;
        sent.map_err(|error| link.name(link.explain(error), method))?;
        link.counters().notifications_sent.add();
        Ok(())
    }

    /// Ends the stream and waits until the peer has received everything.
    ///
    /// A peer of this crate then handles all of it that its rules and rates admit, even if this side leaves
    /// or the peer shuts down, within its grace. It does not where it turns this side out, or where a
    /// notification before it on the stream was not valid or its handler failed. That it was handled,
    /// nobody says.
    ///
    /// # Errors
    ///
    /// [`StreamReset`](ErrorKind::StreamReset) where the peer stopped reading, [`Closed`](ErrorKind::Closed)
    /// where a [`send`](Self::send) was dropped half way, or why the connection is gone.
    ///
    /// # Cancellation
    ///
    /// If this is dropped, the stream is complete all the same, and delivered as after
    /// [`Connection::notify`].
    pub async fn finish(self) -> Result<()> {
        let Self { connection, mut writer, .. } = self;
        writer.finish();
        if !writer.is_finished() {
            return Err(Error::new(ErrorKind::Closed).detail("a notification was given up half way"));
        }
        let stopped = writer.stopped();
        connection.link().outstanding().keep(writer);
        let link = connection.link();
        let acknowledged = stopped.await.map_err(|error| link.explain(error)).and_then(|code| match code {
            None => Ok(()),
            Some(code) => Err(Error::new(ErrorKind::StreamReset(code))),
        });
        acknowledged.inspect(|()| link.note_answer()).map_err(|error| error.at(link.remote_address()))
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, writer: _, codec } = self;
        f.debug_struct("Notifier")
            .field("connection", connection)
            .field("codec", codec)
            .finish_non_exhaustive()
    }
}
