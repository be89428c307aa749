//! Owns how parameters are read from a path. Refuses to say why one does not fit: whatever names
//! nothing is simply not found.

use axum::extract::{FromRequestParts, Path as AxumPath};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::{Code, Problem};

/// The parameters of a path. One that cannot be read, or that holds a NUL, is a 404 with the same
/// body as one that is absent.
#[derive(Debug, Clone, Copy)]
pub struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.path().contains("%00") {
            return Err(Code::NotFound.into());
        }
        match AxumPath::<T>::from_request_parts(parts, state).await {
            Ok(AxumPath(parameters)) => Ok(Self(parameters)),
            Err(_) => Err(Code::NotFound.into()),
        }
    }
}
