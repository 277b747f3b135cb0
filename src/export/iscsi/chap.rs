//! The target's side of CHAP: what initiators have to prove, and what the target proves to them.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::iscsi::chap::{Algorithm, Keys, binary, hexadecimal};
use crate::iscsi::login::Status;
use crate::iscsi::secrets::{Secret, Secrets};
use crate::iscsi::text::say;

/// Who has to prove what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// Names and secrets.
    pub secrets: Arc<Secrets>,
    /// Initiators have to ask for the target's proof as well.
    pub mutual: bool,
}

/// What the initiator has been asked.
#[derive(Debug)]
struct Asked {
    algorithm: Algorithm,
    identifier: u8,
    challenge: Vec<u8>,
}

/// One authentication, from the choice of CHAP on.
#[derive(Debug)]
pub struct Exchange {
    chap: Chap,
    asked: Option<Asked>,
}

impl Exchange {
    /// CHAP has been chosen.
    pub fn new(chap: Chap) -> Self {
        Self { chap, asked: None }
    }

    /// Takes the keys of a request and answers them; true when the initiator has proved who it is. `initiator` is its InitiatorName.
    ///
    /// # Errors
    /// The status that ends the login: keys out of their order, or a proof that is none. Which of a name and its secret is wrong is not
    /// told, nor by the time it takes.
    pub fn step(
        &mut self,
        keys: &Keys,
        initiator: &str,
        answer: &mut String,
    ) -> Result<bool, Status> {
        match (self.asked.take(), keys) {
            (
                None,
                Keys {
                    algorithms: Some(offered),
                    name: None,
                    response: None,
                    identifier: None,
                    challenge: None,
                },
            ) => {
                let mut offered = offered.split(',');
                let algorithm = offered
                    .find_map(Algorithm::of)
                    .ok_or(Status::AuthenticationFailed)?;
                self.asked = Some(ask(algorithm, answer)?);
                Ok(false)
            }
            (
                Some(asked),
                Keys {
                    algorithms: None,
                    name: Some(name),
                    response: Some(response),
                    identifier,
                    challenge,
                },
            ) => {
                self.check(&asked, name, response, initiator)?;
                match (identifier, challenge) {
                    (None, None) if self.chap.mutual => Err(Status::AuthenticationFailed),
                    (None, None) => Ok(true),
                    (Some(identifier), Some(challenge)) => {
                        self.prove(&asked, identifier, challenge, answer)?;
                        Ok(true)
                    }
                    _ => Err(Status::AuthenticationFailed),
                }
            }
            _ => Err(Status::AuthenticationFailed),
        }
    }

    /// Whether the initiator is whom it says.
    fn check(
        &self,
        asked: &Asked,
        name: &str,
        response: &str,
        initiator: &str,
    ) -> Result<(), Status> {
        let user = self.chap.secrets.user(name);
        // A name that is not there takes as long as one that is.
        let nobodys = Secret::default();
        let secret = user.map_or(&nobodys, |user| &user.secret);
        let expected = asked
            .algorithm
            .response(asked.identifier, secret, &asked.challenge);
        let given = binary(response).unwrap_or_default();
        let is_right = bool::from(given.ct_eq(&expected));
        let Some(user) = user.filter(|_| is_right) else {
            return Err(Status::AuthenticationFailed);
        };
        match &user.initiator {
            Some(only) if !only.eq_ignore_ascii_case(initiator) => Err(Status::AuthorizationFailed),
            _ => Ok(()),
        }
    }

    /// The target's own proof.
    fn prove(
        &self,
        asked: &Asked,
        identifier: &str,
        challenge: &str,
        answer: &mut String,
    ) -> Result<(), Status> {
        let identifier: u8 = identifier
            .parse()
            .map_err(|_| Status::AuthenticationFailed)?;
        let challenge = binary(challenge).ok_or(Status::AuthenticationFailed)?;
        // RFC 7143, 12.1.4: our own challenge comes back when somebody wants us to answer it for them.
        if challenge.is_empty() || challenge == asked.challenge {
            return Err(Status::AuthenticationFailed);
        }
        let (name, secret) = self
            .chap
            .secrets
            .own()
            .ok_or(Status::AuthenticationFailed)?;
        let response = asked.algorithm.response(identifier, secret, &challenge);
        say(answer, "CHAP_N", name);
        say(answer, "CHAP_R", &hexadecimal(&response));
        Ok(())
    }
}

/// Makes up a challenge.
fn ask(algorithm: Algorithm, answer: &mut String) -> Result<Asked, Status> {
    let mut challenge = vec![0; algorithm.bytes()];
    let mut identifier = [0];
    getrandom::fill(&mut challenge).map_err(|_| Status::OutOfResources)?;
    getrandom::fill(&mut identifier).map_err(|_| Status::OutOfResources)?;
    say(answer, "CHAP_A", &algorithm.number().to_string());
    say(answer, "CHAP_I", &identifier[0].to_string());
    say(answer, "CHAP_C", &hexadecimal(&challenge));
    Ok(Asked {
        algorithm,
        identifier: identifier[0],
        challenge,
    })
}
