//! Traces: where they go, and which spans are worth it.

use anyhow::{Context, Result};
use opentelemetry::{Context as TraceContext, KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use std::{env, time::Duration};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::{cli::TraceOptions, collector::Collector};

/// How long the end waits for the last spans to be sent.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where OpenTelemetry's own variables name a collector; each has a meaning of its own.
const VARIABLES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// What sends spans to a collector.
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// `None` if no collector is named.
    pub(crate) fn open(options: &TraceOptions) -> Result<Option<Self>> {
        let is_set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let named = options.otlp_endpoint.as_deref();
        if named.is_none() && !VARIABLES.iter().any(is_set) {
            return Ok(None);
        }
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new()?);
        if let Some(base) = named {
            let endpoint = format!("{}/v1/traces", base.trim_end_matches('/'));
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().with_context(|| {
            let named = named.map_or_else(|| VARIABLES.join(" or "), str::to_owned);
            format!("cannot send traces to the collector that {named} names: it is an address such as http://127.0.0.1:4318")
        })?;
        let mut resource = Resource::builder();
        if !is_set(&"OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("bellwether");
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let found = Found(BatchSpanProcessor::builder(exporter).build());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(found)
            .with_resource(resource.with_attribute(version).build())
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Self(provider)))
    }

    /// Makes traces of what is logged as spans for them, and of nothing else.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("bellwether"))
            .with_context_activation(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(pg::SPANS, LevelFilter::TRACE))
    }

    /// Sends what is left, if the collector takes it.
    pub(crate) async fn close(self) {
        let closing = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(LAST_WORDS));
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces are lost"),
            Err(error) => tracing::warn!(%error, "the last traces are lost"),
        }
    }
}

/// Leaves out looks for events that found none: there are hundreds a second, and whether a look has
/// found something is known when it is over.
#[derive(Debug)]
struct Found(BatchSpanProcessor);

impl SpanProcessor for Found {
    fn on_start(&self, span: &mut Span, context: &TraceContext) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let is_look = span.name == "look";
        let mut attributes = span.attributes.iter();
        if !is_look || attributes.any(|attribute| attribute.key.as_str() == "events") {
            self.0.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}
