//! A method whose types derive serde's traits.

use palyra_quic::{MethodError, Router, Serde};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Readings {
    sensor: String,
    celsius: Vec<f32>,
}

#[derive(Serialize)]
struct Warmest {
    sensor: String,
    celsius: f32,
}

pub(crate) fn serve(router: Router) -> Router {
    router.serve("demo.warmest", |_, Serde(Readings { sensor, celsius }): Serde<Readings>| async move {
        let warmest = celsius.into_iter().reduce(f32::max);
        let celsius = warmest.ok_or_else(|| MethodError::invalid_request("no readings"))?;
        Ok(Serde(Warmest { sensor, celsius }))
    })
}
