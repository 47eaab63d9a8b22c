"""What the doors are given to work with: built once by the app, shared by page and API."""

from dataclasses import dataclass

from posthouse.services.alarm import Alarm
from posthouse.services.app_check import AppCheck
from posthouse.services.authorise import Authorise
from posthouse.services.clock import Clock
from posthouse.services.connection_test import ConnectionTest
from posthouse.services.credentials import Credentials
from posthouse.services.device_login import DeviceLogins
from posthouse.services.directory import Directory
from posthouse.services.dispatcher import Dispatcher
from posthouse.services.editing import Editing
from posthouse.services.following import Following
from posthouse.services.forewarning import Forewarning
from posthouse.services.going_back import GoingBack
from posthouse.services.key_rotation import KeyRotation
from posthouse.services.master_key_change import MasterKeyChange
from posthouse.services.notices import Notices
from posthouse.services.rates import Rates
from posthouse.services.refused_senders import RefusedSenders
from posthouse.services.reporting import Reporting
from posthouse.services.sharing import Sharing
from posthouse.services.standing import Standings
from posthouse.services.submission import Submission
from posthouse.services.token_keeper import TokenKeeper
from posthouse.services.watchdog import Watchdog
from posthouse.services.webhook import Webhook
from posthouse.settings import Settings
from posthouse.store.opening import Store


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    store: Store
    directory: Directory
    keeper: TokenKeeper
    authorise: Authorise
    going_back: GoingBack
    sharing: Sharing
    standings: Standings
    connection_test: ConnectionTest
    app_check: AppCheck
    credentials: Credentials
    dispatcher: Dispatcher
    submission: Submission
    rates: Rates
    refused_senders: RefusedSenders
    logins: DeviceLogins
    following: Following
    editing: Editing
    forewarning: Forewarning
    reporting: Reporting
    key_rotation: KeyRotation
    master_key_change: MasterKeyChange
    watchdog: Watchdog
    notices: Notices
    webhook: Webhook
    alarm: Alarm
    clock: Clock
