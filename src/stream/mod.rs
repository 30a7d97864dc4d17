//! Whole frames on quinn's streams: read as they arrive, written in one write each, reset unless finished.

mod frames;
mod never;
mod reader;
mod writer;

#[cfg(feature = "streams")]
pub(crate) use self::{frames::counted_frame, reader::Progress};
pub(crate) use self::{
    frames::{fault_code, response_frame},
    reader::{DeadlineFrom, FrameReader},
    writer::FrameWriter,
};

#[cfg(all(feature = "cert", feature = "sim"))]
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cert::CertificateAuthority,
        code::Code,
        endpoint::Endpoint,
        sim::{Link, Sim},
        tls::{ClientTls, ServerTls},
    };

    #[test]
    fn what_was_written_is_delivered_when_the_peer_has_acknowledged_all_of_it() {
        let (sim, ca) = (Sim::new(1), CertificateAuthority::new("ca").unwrap());
        sim.set_default_link(Link::new().delay(Duration::from_millis(10)));
        let builder = Endpoint::builder().server(ServerTls::new(ca.issue_server(&[]).unwrap().identity()));
        let node = sim.host([10, 0, 0, 1]).bind(builder, 7443).unwrap();
        let builder = Endpoint::builder().client(ClientTls::new(ca.trust()));
        let client = sim.host([10, 0, 0, 2]).bind(builder, 0).unwrap();
        sim.run(async {
            let connection = client.connect((node.local_addr().unwrap(), "localhost")).await.unwrap();
            let (stream, _answer) = connection.link().open_bi().await.unwrap();
            let mut writer = FrameWriter::new(stream, Code::CANCELLED);
            writer.write(vec![0, 0, 0, 1, 0xa0]).await.unwrap();
            sim.sleep(Duration::from_secs(1)).await;
            assert!(!writer.is_delivered(), "there may be more");
            writer.finish();
            assert!(!writer.is_delivered(), "it has not left yet");
            sim.sleep(Duration::from_secs(1)).await;
            assert!(writer.is_delivered());
        });
    }
}
