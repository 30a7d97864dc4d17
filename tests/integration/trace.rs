//! The trace that a request or notification belongs to, from its sender to its handler.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering},
};

use palyra_quic::{
    Bytes, Client, Codec, Connection, Context, Endpoint, EndpointBuilder, ErrorKind, Exchange, Items,
    NextCall, OutgoingCall, ResponseSink, Router, TraceContext, tracing::Span,
};
use smol::channel::{Receiver, Sender, unbounded};

use crate::common::{Server, loopback, run, serve};

/// The trace with this number for everything.
fn trace(number: u8) -> TraceContext {
    TraceContext::new([number; 16], [number; 8], number).unwrap()
}

/// A router whose handlers report the traces that they get.
fn reporting() -> (Router, Receiver<Option<TraceContext>>) {
    let (reports, reported) = unbounded();
    let [unary, streaming, notification]: [Sender<_>; 3] = [(); 3].map(|()| reports.clone());
    let router = Router::new()
        .serve_raw("call", move |context: Context, params| {
            unary.try_send(context.trace()).unwrap();
            async move { Ok(params) }
        })
        .serve_stream_raw("stream", move |context: Context, params, mut answers: ResponseSink| {
            streaming.try_send(context.trace()).unwrap();
            async move { Ok(answers.send_raw(params).await?) }
        })
        .on_notification_raw("note", move |context: Context, _| {
            notification.try_send(context.trace()).unwrap();
            async {}
        });
    (router, reported)
}

async fn connect(server: &Server, builder: EndpointBuilder) -> Connection {
    let endpoint = builder.client(server.pki.client_tls()).bind(loopback()).unwrap();
    endpoint.connect(server.address()).await.unwrap()
}

/// Says another trace each time, beginning with 1.
fn counting() -> EndpointBuilder {
    let number = Arc::new(AtomicU8::new(0));
    Endpoint::builder().inject_trace(move |_: &Span| Some(trace(number.fetch_add(1, Ordering::SeqCst) + 1)))
}

async fn stream(connection: &Connection) {
    let mut answers = connection.stream_raw("stream", "x").await.unwrap();
    while answers.next_raw().await.unwrap().is_some() {}
}

#[test]
fn a_call_carries_the_trace_that_its_caller_gives() {
    run(async {
        let (router, reported) = reporting();
        let server = serve(router);
        let connection = server.connect().await;
        let call = connection.request_raw("call", "x").trace(trace(3));
        for _ in 0..2 {
            call.clone().send_raw().await.unwrap();
            assert_eq!(reported.recv().await.unwrap(), Some(trace(3)));
        }
        let mut answers = connection.request_raw("stream", "x").trace(trace(4)).stream().await.unwrap();
        assert!(answers.next_raw().await.unwrap().is_some());
        assert_eq!(reported.recv().await.unwrap(), Some(trace(4)));
        let endpoint = Endpoint::builder().client(server.pki.client_tls()).bind(loopback()).unwrap();
        let client = Client::builder(endpoint).address(server.address()).build().unwrap();
        client.request_raw("call", "x").trace(trace(5)).send_raw().await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), Some(trace(5)));
        connection.call_raw("call", "x").await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), None, "without one");
        let json = connection.request_raw("call", "x").trace(trace(6)).codec(Codec::Json);
        json.send_raw().await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), None, "JSON has no field for it");
    });
}

#[test]
fn requests_with_items_carry_a_trace() {
    run(async {
        let (reports, reported) = unbounded();
        let [one_answer, answers]: [Sender<_>; 2] = [(); 2].map(|()| reports.clone());
        let server = serve(
            Router::new()
                .serve_items_raw("put", move |context: Context, params, _items: Items| {
                    one_answer.try_send(context.trace()).unwrap();
                    async move { Ok(params) }
                })
                .serve_bidi_raw("talk", move |context: Context, _params, _items: Items, _: ResponseSink| {
                    answers.try_send(context.trace()).unwrap();
                    async move { Ok(()) }
                }),
        );
        let connection = connect(&server, counting()).await;
        // The question whether the peer takes items belongs to no trace.
        for number in [1, 2] {
            connection.send_items_raw("put", "x").await.unwrap().finish_raw().await.unwrap();
            assert_eq!(reported.recv().await.unwrap(), Some(trace(number)));
        }
        let (items, mut answers) = connection.bidi_raw("talk", "x").await.unwrap();
        items.finish().await.unwrap();
        assert!(answers.next_raw().await.unwrap().is_none());
        assert_eq!(reported.recv().await.unwrap(), Some(trace(3)));
        let call = connection.request_raw("put", "x").trace(trace(9));
        call.send_items::<()>().await.unwrap().finish_raw().await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), Some(trace(9)));
    });
}

/// Callers of many traces share the stream, and only the request that opens it could say one.
#[test]
fn calls_of_a_pipeline_carry_no_trace() {
    run(async {
        let (router, reported) = reporting();
        let server = serve(router);
        let connection = connect(&server, counting()).await;
        let calls: palyra_quic::Pipeline = connection.pipeline_raw("call");
        for _ in 0..2 {
            calls.call_raw("x").await.unwrap();
            assert_eq!(reported.recv().await.unwrap(), None);
        }
        connection.call_raw("call", "x").await.unwrap();
        assert_eq!(
            reported.recv().await.unwrap(),
            Some(trace(1)),
            "the twin, and the first that was asked for"
        );
    });
}

#[test]
fn injected_traces_go_with_every_message_in_both_directions() {
    run(async {
        let (router, reported) = reporting();
        let server = serve(router.serve_raw("call_back", |context: Context, params| async move {
            Ok(context.connection().call_raw("call", params).await?)
        }));
        let (own_router, own_reported) = reporting();
        let connection = connect(&server, counting().router(own_router)).await;
        connection.call_raw("call", "x").await.unwrap();
        stream(&connection).await;
        connection.notify_raw("note", "x").await.unwrap();
        for number in 1..=3 {
            assert_eq!(reported.recv().await.unwrap(), Some(trace(number)));
        }
        let mut notifier = connection.notifier().await.unwrap();
        notifier.send_raw("note", "x").await.unwrap();
        notifier.finish().await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), Some(trace(4)));
        connection.request_raw("call", "x").trace(trace(99)).send_raw().await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), Some(trace(99)), "the caller's own goes first");
        connection.request_raw("call", "x").codec(Codec::Json).send_raw().await.unwrap();
        assert_eq!(reported.recv().await.unwrap(), None);
        connection.call_raw("call_back", "x").await.unwrap();
        assert_eq!(own_reported.recv().await.unwrap(), None, "the other side has no hook");
    });
}

#[test]
fn a_trace_that_is_no_longer_injected_is_not_sent_again() {
    run(async {
        let (router, reported) = reporting();
        let server = serve(router);
        let next = Arc::new(Mutex::new(Some(trace(1))));
        let says = Arc::clone(&next);
        let connection =
            connect(&server, Endpoint::builder().inject_trace(move |_: &Span| *says.lock().unwrap())).await;
        let call = connection.request_raw("call", "x");
        for expected in [Some(trace(1)), None, Some(trace(2))] {
            *next.lock().unwrap() = expected;
            call.clone().send_raw().await.unwrap();
            assert_eq!(reported.recv().await.unwrap(), expected);
        }
    });
}

#[test]
fn interceptors_of_both_sides_see_the_trace() {
    run(async {
        let (seen, sees) = unbounded();
        let seen_there = seen.clone();
        let (router, _reported) = reporting();
        let server = serve(router.around(move |exchange: Exchange, next| {
            seen_there.try_send(("exchange", exchange.context().trace())).unwrap();
            next.run()
        }));
        let builder = counting().around_calls(move |call: OutgoingCall, next: NextCall| {
            seen.try_send(("call", call.trace())).unwrap();
            next.run()
        });
        let connection = connect(&server, builder).await;
        connection.call_raw("call", "x").await.unwrap();
        stream(&connection).await;
        connection.notify_raw("note", "x").await.unwrap();
        for number in 1..=3 {
            assert_eq!(sees.recv().await.unwrap(), ("call", Some(trace(number))));
            assert_eq!(sees.recv().await.unwrap(), ("exchange", Some(trace(number))));
        }
    });
}

#[test]
fn a_tracing_system_is_told_of_each_exchange_and_its_trace() {
    run(async {
        let pki = crate::common::Pki::new();
        let (told, tells) = unbounded();
        let (router, reported) = reporting();
        let builder = Endpoint::builder().extract_trace(move |span: &Span, trace| {
            assert!(span.is_disabled(), "nobody listens");
            told.try_send(trace).unwrap();
        });
        let node = builder.server(pki.server_tls()).router(Router::new().nest("a", router)).bind(loopback());
        let node = node.unwrap();
        let client = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        connection.request_raw("a.call", "x").trace(trace(1)).send_raw().await.unwrap();
        connection.call_raw("a.call", "x").await.unwrap();
        connection.notify_raw("a.note", "x").await.unwrap();
        connection.health().await.unwrap();
        for expected in [Some(trace(1)), None, None] {
            assert_eq!(tells.recv().await.unwrap(), expected);
            assert_eq!(reported.recv().await.unwrap(), expected);
        }
        assert!(tells.is_empty());
    });
}

#[test]
fn a_tracing_system_that_panics_costs_one_exchange() {
    run(async {
        let pki = crate::common::Pki::new();
        let (router, _reported) = reporting();
        let builder = Endpoint::builder().extract_trace(|_: &Span, trace| assert_eq!(trace, None));
        let node = builder.server(pki.server_tls()).router(router).bind(loopback()).unwrap();
        let client = Endpoint::builder().client(pki.client_tls()).bind(loopback()).unwrap();
        let connection = client.connect(node.local_addr().unwrap()).await.unwrap();
        let failure = connection.request_raw("call", "x").trace(trace(1)).send_raw().await.unwrap_err();
        assert_eq!(failure.kind(), &ErrorKind::StreamReset(palyra_quic::Code::INTERNAL));
        assert_eq!(connection.call_raw("call", "x").await.unwrap(), Bytes::from("x"));
    });
}
