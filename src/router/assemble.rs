//! Puts interceptors and limits around the handlers of a router.

use std::{mem, sync::Arc};

use bytes::Bytes;

#[cfg(feature = "streams")]
use super::handler::{Bidi, ItemsHandler, ItemsOnce};
use super::{
    Router,
    handler::{Handler, NotificationHandler, NotificationRegistration, Registration, Streaming, Unary},
    handler_future::HandlerFuture,
    interceptor::{Chain, Interceptor},
    method_error::MethodError,
    sink::ResponseSink,
};
use crate::{
    error::{Error, Result},
    method::MethodKind,
};

/// Puts interceptors and limits around the handlers. A router has this as a pointer, so that it is not a part
/// of programs without both.
pub(super) fn assemble(router: &mut Router) -> Result<()> {
    if let Some(name) = router.limited_without_method() {
        return Err(Error::invalid_config(format!("limits are for a method that is not served: {name:?}")));
    }
    let limits = mem::take(&mut router.limits);
    let outer = mem::take(&mut router.interceptors);
    router.methods = mem::take(&mut router.methods)
        .into_iter()
        .map(|(name, mut registration)| {
            if let Some(limits) = limits.get(&name) {
                registration.timeout = limits.timeout();
                registration.interceptors.extend(limits.interceptor());
            }
            let registration = around_registration(&name, &outer, registration);
            (name, registration)
        })
        .collect();
    router.notifications = mem::take(&mut router.notifications)
        .into_iter()
        .map(|(name, NotificationRegistration { handler, interceptors })| {
            let handler = match chain(&name, MethodKind::Notification, &outer, interceptors) {
                Some(chain) => around_notification(chain, handler),
                None => handler,
            };
            (name, handler.into())
        })
        .collect();
    Ok(())
}

fn around_registration(name: &str, outer: &[Interceptor], registration: Registration) -> Registration {
    let Registration { handler, response_size, timeout, interceptors } = registration;
    let handler = match chain(name, handler.kind(), outer, interceptors) {
        Some(chain) => around_method(chain, handler),
        None => handler,
    };
    Registration { handler, response_size, timeout, interceptors: Vec::new() }
}

fn chain(
    name: &str,
    kind: MethodKind,
    outer: &[Interceptor],
    mut own: Vec<Interceptor>,
) -> Option<Arc<Chain>> {
    own.splice(..0, outer.iter().cloned());
    (!own.is_empty()).then(|| Chain::new(name, kind, own))
}

fn around_method(chain: Arc<Chain>, handler: Handler) -> Handler {
    match handler {
        Handler::Unary(handler) => Handler::Unary(around_unary(chain, handler)),
        Handler::Streaming(handler) => Handler::Streaming(around_streaming(chain, handler)),
        #[cfg(feature = "streams")]
        Handler::Items(handler) => Handler::Items(around_items(chain, handler)),
    }
}

#[cfg(feature = "streams")]
fn around_items(chain: Arc<Chain>, handler: ItemsHandler) -> ItemsHandler {
    match handler {
        ItemsHandler::Once(handler) => ItemsHandler::Once(around_once(chain, handler)),
        ItemsHandler::Bidi(handler) => ItemsHandler::Bidi(around_bidi(chain, handler)),
    }
}

#[cfg(feature = "streams")]
fn around_once(chain: Arc<Chain>, handler: ItemsOnce) -> ItemsOnce {
    let handler = Arc::new(handler);
    Box::new(move |context, params, items| {
        let (chain, handler) = (Arc::clone(&chain), Arc::clone(&handler));
        let (context_of_handler, params_len) = (context.clone(), params.len());
        let call = Box::new(move || handler(context_of_handler, params, items));
        Box::pin(chain.run(context, params_len, call))
    })
}

#[cfg(feature = "streams")]
fn around_bidi(chain: Arc<Chain>, handler: Bidi) -> Bidi {
    let handler = Arc::new(handler);
    Box::new(move |context, params, items, sink| {
        let (chain, handler) = (Arc::clone(&chain), Arc::clone(&handler));
        let (context_of_handler, params_len) = (context.clone(), params.len());
        let answers = sink.another(context.link());
        let call = Box::new(move || without_payload(handler(context_of_handler, params, items, sink)));
        Box::pin(async move { send(answers, chain.run(context, params_len, call).await?).await })
    })
}

fn around_unary(chain: Arc<Chain>, handler: Unary) -> Unary {
    let handler = Arc::new(handler);
    Box::new(move |context, params| {
        let (chain, handler) = (Arc::clone(&chain), Arc::clone(&handler));
        let (context_of_handler, params_len) = (context.clone(), params.len());
        let call = Box::new(move || handler(context_of_handler, params));
        Box::pin(chain.run(context, params_len, call))
    })
}

fn around_streaming(chain: Arc<Chain>, handler: Streaming) -> Streaming {
    let handler = Arc::new(handler);
    Box::new(move |context, params, sink| {
        let (chain, handler) = (Arc::clone(&chain), Arc::clone(&handler));
        let (context_of_handler, params_len) = (context.clone(), params.len());
        let answers = sink.another(context.link());
        let call = Box::new(move || without_payload(handler(context_of_handler, params, sink)));
        Box::pin(async move { send(answers, chain.run(context, params_len, call).await?).await })
    })
}

/// Sends what an interceptor of a method with any number of answers has answered itself.
async fn send(mut answers: ResponseSink, answer: Bytes) -> Result<(), MethodError> {
    if !answer.is_empty() {
        answers.send_raw(answer).await?;
    }
    Ok(())
}

fn around_notification(chain: Arc<Chain>, handler: NotificationHandler) -> NotificationHandler {
    let handler = Arc::new(handler);
    Box::new(move |context, params| {
        let (chain, handler) = (Arc::clone(&chain), Arc::clone(&handler));
        let (context_of_handler, params_len) = (context.clone(), params.len());
        let call = Box::new(move || without_payload(handler(context_of_handler, params)));
        Box::pin(async move { chain.run(context, params_len, call).await.map(drop) })
    })
}

fn without_payload(
    handler: HandlerFuture<Result<(), MethodError>>,
) -> HandlerFuture<Result<Bytes, MethodError>> {
    Box::pin(async move { handler.await.map(|()| Bytes::new()) })
}
