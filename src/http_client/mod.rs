//! HTTP clients to put beneath the layers: [`HttpsClient`], with defaults that fit Exchange, and [`ReqwestClient`], around a
//! client of reqwest.
//!
//! Neither is needed: any tower `Service` over HTTP requests is a client of the layers.

#[cfg(feature = "https")]
mod https;
#[cfg(feature = "reqwest")]
mod reqwest;

#[cfg(feature = "https")]
#[cfg_attr(docsrs, doc(cfg(feature = "https")))]
pub use self::https::{HttpsClient, HttpsClientBuilder, ReadTimeout, ResponseBody, ResponseFuture};
#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
pub use self::reqwest::{ReqwestClient, ReqwestFuture};
